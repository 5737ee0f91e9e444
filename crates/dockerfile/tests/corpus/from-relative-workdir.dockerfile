FROM relative
RUN x
WORKDIR c
COPY a b
