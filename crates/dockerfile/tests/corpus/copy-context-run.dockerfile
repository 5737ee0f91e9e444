FROM busybox
RUN --mount=target=/x,source=six a
COPY seven /
