"""A call that fails with a status."""

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Failure(Exception):
    """Ends a call with a code and a message."""

    def __init__(self, code, details):
        super().__init__(details)
        self.code = code
        self.details = details


def unavailable(details):
    return Failure(grpc.StatusCode.UNAVAILABLE, details)
