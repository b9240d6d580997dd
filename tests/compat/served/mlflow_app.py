"""MLflow: ``mlflow_app.py PORT``; a column comes back times the variable FACTOR."""

import os
import sys

import mlflow.pyfunc


class Scaled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return (model_input["x"] * float(os.environ["FACTOR"])).tolist()


if __name__ == "__main__":
    folder = f"model-{sys.argv[1]}"
    mlflow.pyfunc.save_model(folder, python_model=Scaled(), pip_requirements=[])
    words = ["mlflow", "models", "serve", "-m", folder, "-h", "127.0.0.1", "-p", sys.argv[1]]
    os.execvp(words[0], [*words, "--env-manager", "local"])
