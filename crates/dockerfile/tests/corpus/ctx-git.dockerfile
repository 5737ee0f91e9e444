FROM scratch
COPY --from=g /x /
COPY --from=h /y /
