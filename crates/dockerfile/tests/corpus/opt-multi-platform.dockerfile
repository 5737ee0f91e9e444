FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETOS TARGETARCH
RUN make $TARGETOS $TARGETARCH
FROM busybox
COPY --from=build /out /
RUN post
