"""Gradio: ``gradio_app.py PORT``; a number comes back times the variable FACTOR."""

import os
import sys

import gradio


def predict(x: float) -> float:
    return x * float(os.environ["FACTOR"])


if __name__ == "__main__":
    gradio.Interface(predict, "number", "number", api_name="predict").launch(
        server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True
    )
