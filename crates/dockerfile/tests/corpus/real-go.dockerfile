# syntax=docker/dockerfile:1
ARG GO=1.25
FROM --platform=$BUILDPLATFORM golang:${GO}-alpine AS base
WORKDIR /src
ENV CGO_ENABLED=0
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

FROM base AS build
ARG TARGETOS TARGETARCH
RUN --mount=target=. --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
  GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /out/app ./cmd/app

FROM base AS test
RUN --mount=target=. go test ./...

FROM scratch AS bin
COPY --from=build /out/app /

FROM alpine:3
RUN apk add --no-cache ca-certificates
COPY --from=build /out/app /usr/bin/
USER 1000
ENTRYPOINT ["/usr/bin/app"]
