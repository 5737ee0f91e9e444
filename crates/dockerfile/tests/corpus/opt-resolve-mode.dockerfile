FROM busybox
RUN x
COPY --from=alpine /a /
