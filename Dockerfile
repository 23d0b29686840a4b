FROM python:3.13-slim
WORKDIR /srv/rush
COPY requirements/server.txt requirements/server.txt
RUN pip install --no-cache-dir --require-hashes -r requirements/server.txt
COPY pyproject.toml ./
COPY observability observability
COPY engine engine
COPY gateway gateway
COPY workers workers
COPY loadtest loadtest
COPY rush rush
COPY lua lua
COPY migrations migrations
# Editable: the scripts and migrations are read from beside the packages.
RUN pip install --no-cache-dir --no-build-isolation --no-deps --editable . \
    && useradd --system rush && mkdir .rush && chown rush .rush
USER rush
EXPOSE 8000 9100
CMD ["rush", "serve"]
