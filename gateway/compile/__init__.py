"""From a document to what the data plane runs: the only room that knows both."""
