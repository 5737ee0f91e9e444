FROM busybox
RUN x
COPY x /
