"""The config that an algorithm is built with."""


class DllmConfig:
    def __init__(
        self,
        algorithm,
        algorithm_config,
        block_size,
        mask_id,
        max_running_requests,
        first_done_first_out_mode=False,
    ):
        self.algorithm = algorithm
        self.algorithm_config = algorithm_config
        self.block_size = block_size
        self.mask_id = mask_id
        self.max_running_requests = max_running_requests
        self.first_done_first_out_mode = first_done_first_out_mode
