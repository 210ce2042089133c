"""Host any scorer: implement `scorer.Scorer`, and give it to `lifecycle.serve`."""
