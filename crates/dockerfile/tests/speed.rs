//! A megabyte of Dockerfile is read in well under 50 ms, and twice as much in twice the time.

use std::time::{Duration, Instant};

use kiln_dockerfile::lint::Linter;
use kiln_dockerfile::parse_linted;

fn sample(bytes: usize) -> String {
    let block = "# VERSION is what to build\nARG VERSION=1.2.3\nENV PATH=\"/opt/${VERSION:-x}/bin:$PATH\" A=b\n\
                 RUN --mount=type=cache,target=/root/.cache,id=c apt-get update && \\\n    # note\n    apt-get install -y \\\n      \
                 curl git && \\\n    rm -rf /var/lib/apt\nCOPY --from=build --chown=1:2 --link /src/a /src/b /dst/\n\
                 RUN <<EOF\nset -e\nmake -j\nEOF\nLABEL a.b.c=\"d e\" f='g'\nCMD [\"serve\", \"--port\", \"80\"]\n";
    let mut text = "FROM busybox AS build\n".to_owned();
    while text.len() < bytes {
        text.push_str(block);
    }
    text
}

fn fastest(text: &str) -> Duration {
    (0..5)
        .map(|_| {
            let start = Instant::now();
            let parsed = parse_linted(text, &mut Linter::default());
            assert!(parsed.is_ok());
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

#[test]
fn a_megabyte_is_quick_and_growth_is_linear() {
    let (one, four) = (sample(1 << 20), sample(4 << 20));
    let (quick, slow) = (fastest(&one), fastest(&four));
    println!("1 MiB: {quick:?}, 4 MiB: {slow:?}");
    // Unoptimised builds on a busy machine are an order of magnitude slower.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 1000 } else { 50 });
    assert!(quick < limit, "{quick:?}");
    assert!(slow < quick * 12 + Duration::from_millis(20), "{quick:?} for 1 MiB, {slow:?} for 4");
}

#[test]
fn one_long_instruction_is_no_slower() {
    let text = format!("FROM a\nRUN {}true\n", "x \\\n".repeat(200_000));
    let start = Instant::now();
    parse_linted(&text, &mut Linter::default()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
}
