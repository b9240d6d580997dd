import os

# What tests start inherits it. More threads for small products of matrices wait for each other, and burn CPU meanwhile.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
