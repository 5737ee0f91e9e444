//! Parsing and converting take time in proportion to the length of a Dockerfile, whatever it is made of.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{Host, convert};

/// Shapes of Dockerfiles: what comes first, and what comes again and again with a number in place of `@`.
const SHAPES: &[(&str, &str, &str)] = &[
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
    ("stage chain", "FROM busybox AS s\n", "FROM s AS t@\nENV N@=1\nFROM t@ AS s\n"),
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
        "global arg" => text + "FROM busybox\n",
        "copy sources" => text + " /dst/\n",
        _ => text,
    }
}

fn fastest(text: &str, rounds: usize) -> Duration {
    let host = Host::new(text);
    let attrs = BTreeMap::new();
    let round = |_| {
        let start = Instant::now();
        let converted = convert(&host, &attrs);
        let taken = start.elapsed();
        if let Err(failed) = converted {
            panic!("{failed}");
        }
        taken
    };
    (0..rounds).map(round).min().unwrap_or_default()
}

#[test]
fn growth_is_linear() {
    // A megabyte where the build is optimised; otherwise, and on a busy machine, everything is an order of magnitude slower.
    let (size, limit) = if cfg!(debug_assertions) { (1 << 14, 1000) } else { (1 << 20, 1500) };
    let limit = Duration::from_millis(limit);
    let mut wrong = Vec::new();
    for shape in SHAPES {
        let once = fastest(&text(shape, size), 2);
        let four = fastest(&text(shape, 4 * size), 2);
        let line = format!("{:14} {once:>9.1?}, four times as much {four:>9.1?}", shape.0);
        println!("{line}");
        if once > limit || four > once * 10 + Duration::from_millis(20) {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
