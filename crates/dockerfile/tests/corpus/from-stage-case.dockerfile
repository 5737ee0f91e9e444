FROM busybox AS Builder
RUN a
FROM scratch
COPY --from=BUILDER /a /
