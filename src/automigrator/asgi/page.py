"""stub"""


class Page:
    def __init__(self, template=None):
        pass

    def rendered(self, told, *, root, prefix, run_path=None):
        return b"<!doctype html><title>abc</title>", "abc"
