//! Parsing and converting take time in proportion to the length of a Dockerfile, whatever it is made of.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Host, convert};

/// Stages as people write them, about a kilobyte and a half of each kind.
const REAL: &str = "
# Dependencies of the service, cached by their lock file.
FROM golang:1.25-bookworm AS deps@
WORKDIR /src
ENV CGO_ENABLED=0 GOFLAGS=-mod=readonly
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \\
    --mount=type=cache,target=/root/.cache/go-build \\
    go mod download -x

FROM deps@ AS build@
ARG VERSION=dev
ARG TARGETOS TARGETARCH
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=bind,source=.git,target=/src/.git \\
    GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \\
      -ldflags \"-s -w -X main.version=${VERSION}\" \\
      -o /out/server ./cmd/server

FROM node:22-slim AS web@
ENV NODE_ENV=production \\
    PATH=/app/node_modules/.bin:$PATH
WORKDIR /app
COPY --chown=node:node web/package.json web/package-lock.json ./
# Native modules need a compiler.
RUN apt-get update \\
 && apt-get install -y --no-install-recommends \\
      build-essential \\
      ca-certificates \\
      curl \\
      git \\
      python3 \\
 && npm ci \\
 && rm -rf /var/lib/apt/lists/*
COPY --chown=node:node web .
RUN npm run build && npm prune --omit=dev

FROM debian:bookworm-slim AS final@
LABEL org.opencontainers.image.title=\"server\" \\
      org.opencontainers.image.source=\"https://example.com/org/server\" \\
      org.opencontainers.image.licenses=\"Apache-2.0\"
RUN <<EOF
set -eux
groupadd --system --gid 10001 app
useradd --system --uid 10001 --gid app --home-dir /srv --shell /usr/sbin/nologin app
mkdir -p /srv/data /srv/static
chown -R app:app /srv
EOF
COPY --from=build@ --chmod=0755 /out/server /usr/local/bin/server
COPY --from=web@ --chown=app:app /app/dist /srv/static
USER app:app
WORKDIR /srv
ENV LISTEN=0.0.0.0:8080 LOG_LEVEL=info DATA_DIR=/srv/data
VOLUME [\"/srv/data\"]
EXPOSE 8080/tcp 9090
HEALTHCHECK --interval=30s --timeout=3s CMD curl -fsS http://127.0.0.1:8080/healthz || exit 1
STOPSIGNAL SIGTERM
ENTRYPOINT [\"/usr/local/bin/server\"]
CMD [\"--config\", \"/etc/server.toml\"]
";

/// Shapes of Dockerfiles: what comes first, and what comes again and again with a number in place of `@`.
const SHAPES: &[(&str, &str, &str)] = &[
    ("real stages", "# syntax=docker/dockerfile:1\n", REAL),
    (
        "mixed",
        "FROM busybox\n",
        "ARG V=1.2\nENV PATH=\"/opt/${V:-x}/bin:/bin\" A=b\nRUN --mount=type=cache,target=/root/.cache,id=c apt-get update && \\\n  # note\n  apt-get install -y \\\n    curl git && \\\n  rm -rf /var/lib/apt\nCOPY --chown=1:2 /src/a /src/b /dst/\nRUN <<EOF\nset -e\nmake -j\nEOF\nLABEL a.b.c=\"d e\" f='g'\nCMD [\"serve\", \"--port\", \"80\"]\nWORKDIR /srv/app\n",
    ),
    ("env", "FROM busybox\n", "ENV NAME@=value\n"),
    ("env again", "FROM busybox\n", "ENV NAME=$NAME@ OTHER=x\n"),
    ("env pairs", "FROM busybox\nENV A=b", " \\\n NAME@=value"),
    ("arg", "FROM busybox\n", "ARG NAME@=value\n"),
    ("global arg", "", "ARG NAME@=value\n"),
    ("label", "FROM busybox\n", "LABEL name.@=value\n"),
    ("run", "FROM busybox\n", "RUN make @\n"),
    ("long run", "FROM busybox\nRUN true", " && \\\n  echo @"),
    ("copy", "FROM busybox\n", "COPY src/@ /dst/\n"),
    ("copy sources", "FROM busybox\nCOPY a", " \\\n src/@"),
    ("linked copy", "FROM busybox\n", "COPY --link src/@ /dst/\n"),
    ("copy heredocs", "FROM busybox\n", "COPY <<a@ /a/\ntext\na@\n"),
    ("heredoc", "FROM busybox\n", "RUN <<EOF\necho @\nEOF\n"),
    ("workdir", "FROM busybox\n", "ENV N@=v\nWORKDIR /srv/@\n"),
    ("stages", "FROM busybox AS s\n", "FROM busybox AS s@\nRUN make\n"),
    ("stage chain", "FROM busybox AS s\n", "FROM s AS t@\nENV N@=1 M=@\nFROM t@ AS s\n"),
    ("copy from", "FROM busybox AS s\n", "FROM scratch AS s@\nCOPY --from=s /a /b\n"),
    ("comments", "FROM busybox\n", "# a comment of @\n# check=skip=JSONArgsRecommended\nCMD run @\n"),
    ("warnings", "FROM busybox\n", "env KEY@ $undefined\n"),
    ("expose", "FROM busybox\n", "EXPOSE @/tcp\n"),
    (
        "metadata",
        "FROM busybox\n",
        "USER u@\nVOLUME /v@\nSTOPSIGNAL 9\nHEALTHCHECK CMD x\nENTRYPOINT [\"a\"]\nSHELL [\"/bin/sh\"]\n",
    ),
    ("mounts", "FROM busybox\nRUN true", " --mount=type=cache,target=/c@ \\\n"),
    ("onbuild", "FROM busybox\n", "ONBUILD RUN make @\n"),
];

fn text(shape: &(&str, &str, &str), bytes: usize) -> String {
    let mut text = shape.1.to_owned();
    let mut number = 0;
    while text.len() < bytes {
        text.push_str(&shape.2.replace('@', &(number % 50_000).to_string()));
        number += 1;
    }
    // Flags stand before the command.
    if shape.0 == "mounts" {
        text = format!("FROM busybox\nRUN {} true", &text["FROM busybox\nRUN true".len()..]);
    }
    match shape.0 {
        // All of it is needed.
        "real stages" => {
            let mounts = (0..number).map(|n| format!(" --mount=type=bind,from=final{n},target=/m/{n} \\\n"));
            text + "FROM busybox\nRUN" + &mounts.collect::<String>() + " true\n"
        }
        "global arg" => text + "FROM busybox\n",
        "copy sources" => text + " /dst/\n",
        _ => text,
    }
}

/// What this thread has spent on a processor; other programs do not count then.
#[cfg(unix)]
fn spent(_start: Instant) -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The clock on the wall, where threads have none of their own.
#[cfg(not(unix))]
fn spent(start: Instant) -> Duration {
    start.elapsed()
}

fn fastest(text: &str, rounds: usize) -> Duration {
    let host = Host::new(text);
    let attrs = BTreeMap::new();
    let began = Instant::now();
    let round = |_| {
        let start = spent(began);
        let converted = convert(&host, &attrs);
        let taken = spent(began) - start;
        if let Err(failed) = converted {
            panic!("{failed}");
        }
        taken
    };
    (0..rounds).map(round).min().unwrap_or_default()
}

#[test]
fn growth_is_linear() {
    // A megabyte where the build is optimised: real stages take about 40 ms, and the slowest shape, three ops a line, 150. Other builds
    // are an order of magnitude slower.
    let (size, limit) = if cfg!(debug_assertions) { (1 << 14, 1000) } else { (1 << 20, 800) };
    let limit = Duration::from_millis(limit);
    let mut wrong = Vec::new();
    // KILN_TEST_SHAPE names one to look at.
    let only = std::env::var("KILN_TEST_SHAPE").ok();
    let named = only.as_deref().is_none_or(|only| SHAPES.iter().any(|shape| shape.0 == only));
    assert!(named, "KILN_TEST_SHAPE is one of {:?}", SHAPES.iter().map(|shape| shape.0).collect::<Vec<_>>());
    for shape in SHAPES.iter().filter(|shape| only.as_deref().is_none_or(|only| only == shape.0)) {
        let once = fastest(&text(shape, size), if cfg!(debug_assertions) { 2 } else { 5 });
        let four = fastest(&text(shape, 4 * size), 2);
        let line = format!("{:14} {once:>9.1?}, four times as much {four:>9.1?}", shape.0);
        println!("{line}");
        if once > limit || four > once * 10 + Duration::from_millis(20) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
