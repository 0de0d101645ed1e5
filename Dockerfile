# One image for every service of docker-compose.yaml but PostgreSQL and Redis: `make image` builds it.
FROM apache/airflow:3.3.2-python3.11

USER root
# git commits the retraining notebooks; the folders are where volumes are mounted, which take over their owner.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm -rf /var/lib/apt/lists/* \
 && install --directory --owner airflow --group root --mode 0770 /lake /state /artifacts /mail
USER airflow

# The lock comes first: a change of code installs nothing anew.
COPY --chown=airflow:root requirements.txt /opt/airflow/
RUN pip install --no-cache-dir --no-deps --requirement /opt/airflow/requirements.txt

COPY --chown=airflow:root pyproject.toml README.md LICENSE /opt/airflow/
COPY --chown=airflow:root local /opt/airflow/local
COPY --chown=airflow:root config /opt/airflow/config
COPY --chown=airflow:root plugins /opt/airflow/plugins
COPY --chown=airflow:root dags /opt/airflow/dags
COPY --chown=airflow:root include /opt/airflow/include
# Editable: the lock and the models lie beside the package, where lineage looks for them.
RUN pip install --no-cache-dir --no-deps --editable /opt/airflow \
 && python -m compileall -q /opt/airflow/include /opt/airflow/dags /opt/airflow/plugins /opt/airflow/config /opt/airflow/local

# What lineage calls the commit, where there is no repository to ask.
ARG ESTEIRA_COMMIT=""
ENV ESTEIRA_COMMIT=${ESTEIRA_COMMIT}
