"""Algorithms by name."""


def get_algorithm(config):
    return algo_name_to_cls[config.algorithm](config)


algo_name_to_cls = {}
