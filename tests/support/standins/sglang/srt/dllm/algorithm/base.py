"""The class whose two loops call an algorithm's step."""


class DllmAlgorithm:
    def __init__(self, config):
        self.block_size = config.block_size
        self.mask_id = config.mask_id
        self.fdfo = config.first_done_first_out_mode

    def init_step_state(self, forward_batch):
        return [None] * forward_batch.batch_size

    def max_steps(self, block_size):
        return block_size + 1

    def step(self, forward_batch, full_logits, states):
        raise NotImplementedError

    def run(self, model_runner, forward_batch, algo_states=None):
        if self.fdfo:
            return self._run_fdfo(model_runner, forward_batch, algo_states)
        return self._run_sync(model_runner, forward_batch)

    def _run_sync(self, model_runner, forward_batch):
        """All blocks of the batch to their ends: the tokens of each, without its prompt."""
        tokens = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        prompts = (tokens != self.mask_id).sum(1).tolist()
        states = self.init_step_state(forward_batch)
        out = model_runner.forward(forward_batch, pp_proxy_tensors=None)
        if min(prompts) == self.block_size:
            return out.logits_output, [], None, None, out.can_run_graph
        for _ in range(self.max_steps(self.block_size)):
            if all(self.step(forward_batch, out.logits_output.full_logits, states)):
                break
            out = model_runner.forward(forward_batch, pp_proxy_tensors=None)
        written = [row[start:] for row, start in zip(tokens, prompts, strict=True)]
        return out.logits_output, written, None, None, out.can_run_graph

    def _run_fdfo(self, model_runner, forward_batch, algo_states):
        """One pass: the blocks, which of them are done, and the states of the others."""
        states = list(algo_states or [None] * forward_batch.batch_size)
        fresh = self.init_step_state(forward_batch)
        states = [new if old is None else old for old, new in zip(states, fresh, strict=True)]
        out = model_runner.forward(forward_batch, pp_proxy_tensors=None)
        done = self.step(forward_batch, out.logits_output.full_logits, states)
        blocks = forward_batch.input_ids.view(len(done), self.block_size).tolist()
        lengths = [self.block_size if end else 0 for end in done]
        kept = [None if end else state for end, state in zip(done, states, strict=True)]
        return out.logits_output, blocks, lengths, kept, out.can_run_graph
