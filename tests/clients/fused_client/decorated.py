"""A module of a user's, with a UDF in it."""

import fused


@fused.udf
def divided(by: int) -> list[float]:
    numbers = [0, 1, 2]
    return [number / by for number in numbers]
