FROM busybox
RUN --security=insecure a
RUN --security=sandbox b
