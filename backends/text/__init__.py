"""Language models over bytes: continuous batching, OpenAI's API and Triton's generate extension."""
