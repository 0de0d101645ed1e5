# One image for every service of docker-compose.yaml but PostgreSQL and Redis: `make image` builds it.
FROM apache/airflow:3.3.2-python3.11

USER 0
# git commits the retraining notebooks; the folders are where volumes are mounted, which take over their owner.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc git libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner 50000 --group 0 --mode 0770 /lake /state /artifacts /mail /opt/esteira
USER 50000

# An environment of its own: the lock and nothing else, beside the many providers that the base image brings.
# It comes first: a change of code installs nothing anew. Only files with a hash in the lock are installed, and none is built.
COPY requirements.txt /opt/airflow/
RUN python -m venv /opt/esteira \
 && /opt/esteira/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
      --requirement /opt/airflow/requirements.txt
ENV PATH=/opt/esteira/bin:$PATH VIRTUAL_ENV=/opt/esteira

COPY pyproject.toml README.md LICENSE /opt/airflow/
COPY ops /opt/airflow/ops
COPY config /opt/airflow/config
COPY plugins /opt/airflow/plugins
COPY dags /opt/airflow/dags
COPY --chown=50000:0 include /opt/airflow/include
# Editable: the lock and the models lie beside the package, where lineage looks for them.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable /opt/airflow

# What lineage calls the commit, where there is no repository to ask.
ARG ESTEIRA_COMMIT=""
ENV ESTEIRA_COMMIT=${ESTEIRA_COMMIT}
