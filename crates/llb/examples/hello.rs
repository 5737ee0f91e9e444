//! Builds a definition and writes it to standard output, for `buildctl build`:
//!
//! ```text
//! cargo run -q -p kiln-llb --example hello | buildctl build --local context=. --output type=local,dest=out
//! ```

use std::io::Write;

use kiln_llb::build::{self, Constraints, CopyOptions, File, Marshal, Mount, Run, State};
use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The folder that the client calls "context", without what git keeps.
    let options = build::LocalOptions { exclude: vec![".git".into()], ..Default::default() };
    let context = build::local("context", options, Constraints::new().custom_name("load the context"));

    // Count its lines in a container.
    let counted = build::image("docker.io/library/busybox:latest", Default::default(), Constraints::new())?
        .dir("/src")
        .run(
            Run::new(["sh", "-c", "find . -type f | xargs cat | wc -l > /out/lines"])
                .mount(Mount::bind("/src", &context).read_only())
                .mount(Mount::bind("/out", &State::scratch()))
                .constraints(Constraints::new().custom_name("count the lines")),
        )?;
    let out = counted.mount("/out").ok_or("the run has no such mount")?;

    // Keep the number alone.
    let result = State::scratch()
        .file(File::new().copy(out, "/lines", "/lines.txt", CopyOptions::default()), Constraints::new());
    let definition = result.marshal(&Marshal::new(format!("hello-{}", std::process::id())))?;
    std::io::stdout().write_all(&definition.encode_to_vec())?;
    Ok(())
}
