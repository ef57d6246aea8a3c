# JupyterLab with the notebooks, on an NVIDIA GPU. torch brings the CUDA libraries; the machine has the driver and the
# NVIDIA Container Toolkit. Triton compiles with the C compiler of the base image. From the root of the repository:
#   docker build --file docker/cuda.Dockerfile --tag ternary-lab:cuda .
#   docker run --rm --gpus all --publish 127.0.0.1:8888:8888 ternary-lab:cuda
FROM python:3.11
RUN useradd --create-home lab
USER lab
ENV PATH=/home/lab/.local/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /home/lab/ternary-lab
COPY --chown=lab . .
RUN pip install --user --no-cache-dir --constraint requirements.lock --editable '.[explorer]'
EXPOSE 8888
CMD ["jupyter", "lab", "--ServerApp.ip=0.0.0.0", "--no-browser", "notebooks/00_start_here.ipynb"]
