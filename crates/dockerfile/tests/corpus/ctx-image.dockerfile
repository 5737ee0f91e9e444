FROM base AS a
RUN x
FROM scratch
COPY --from=a /x /
COPY --from=lib /y /
