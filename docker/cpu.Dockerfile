# JupyterLab with the notebooks, on a CPU. From the root of the repository:
#   docker build --file docker/cpu.Dockerfile --tag ternary-lab .
#   docker run --rm --publish 127.0.0.1:8888:8888 ternary-lab
FROM python:3.11-slim
RUN useradd --create-home lab
USER lab
ENV PATH=/home/lab/.local/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /home/lab/ternary-lab
COPY --chown=lab . .
RUN pip install --user --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint requirements.lock --editable '.[explorer]'
EXPOSE 8888
CMD ["jupyter", "lab", "--ServerApp.ip=0.0.0.0", "--no-browser", "notebooks/00_start_here.ipynb"]
