FROM busybox
ARG L=1
COPY --link=false a /
COPY --link=true a /b
COPY --parents=true a/b /
COPY --chown=${L}:${L} --chmod=${L:+600} a /c
