FROM busybox AS other
RUN make
FROM triggers
RUN own
