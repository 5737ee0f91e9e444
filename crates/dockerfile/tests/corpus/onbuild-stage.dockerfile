FROM busybox AS other
RUN x
FROM busybox AS a
ONBUILD RUN t1
ONBUILD COPY --from=other /x /
ONBUILD ENV T=1
FROM a AS b
RUN own $T
FROM b
RUN last
