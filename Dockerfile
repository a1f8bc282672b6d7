# fastbean in a container: docker build -t fastbean . && docker run -p 11300:11300 -v fastbean:/var/lib/fastbean fastbean
# Flags of its own follow the name of the image, and take the place of those of CMD.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY . /source
# The flags of a released wheel, see tool.cibuildwheel in pyproject.toml.
ENV CFLAGS="-fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2" \
    LDFLAGS="-Wl,-z,relro,-z,now -Wl,-z,noexecstack -Wl,--as-needed"
RUN python -m venv --without-pip /opt/fastbean \
 && pip --python /opt/fastbean/bin/python install --no-cache-dir --no-compile /source \
 && /opt/fastbean/bin/python -m compileall -q /opt/fastbean/lib

FROM python:${PYTHON}-slim
COPY --from=build /opt/fastbean /opt/fastbean
RUN useradd --system --uid 11300 --home-dir /var/lib/fastbean --shell /usr/sbin/nologin fastbean \
 && install -d -m 0700 -o fastbean -g fastbean /var/lib/fastbean
ENV PATH=/opt/fastbean/bin:$PATH
USER fastbean
VOLUME /var/lib/fastbean
EXPOSE 11300
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["fastbean", "health", "127.0.0.1:11300"]
ENTRYPOINT ["fastbean"]
CMD ["-b", "/var/lib/fastbean"]
