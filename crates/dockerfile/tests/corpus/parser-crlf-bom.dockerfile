FROM busybox
RUN a && \
  b
COPY x /y
