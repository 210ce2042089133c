"""The verifier service: does an image show what its prompt says, and may an unfinished one come to show it?

Nothing imports this package but itself: it is hosted by `assay serve verifier` and called over gRPC or HTTP.
"""
