"""The spatial service: do two objects stand as asked, where in another view is an object, where was a view changed?

Nothing imports this package but itself: it is hosted by `assay serve spatial` and called over gRPC or HTTP.
"""
