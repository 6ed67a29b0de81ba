import fused


@fused.udf
def udf(name: str = "world"):
    """The smallest UDF

    What it returns is the answer: `hello.json?name=you`.
    """
    return {"hello": name, "letters": len(name)}
