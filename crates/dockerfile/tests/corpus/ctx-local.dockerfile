FROM scratch
COPY --from=l /x /
FROM busybox
RUN --mount=from=l,target=/l a
COPY --from=l y z/ /
