//! Folders of specifications.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::devices::{Devices, Known, Problem};
use crate::spec::Spec;

/// Most bytes of a specification.
pub const MAX_FILE: u64 = 4 << 20;
/// Most specifications of a folder.
const MAX_FILES: usize = 1000;

/// Where specifications are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The folders. Of devices with one name, that of the last folder counts.
    pub folders: Vec<PathBuf>,
    /// Devices and kinds that every build may use.
    pub auto_allowed: Vec<String>,
}

impl Registry {
    /// Reads the folders as they are now. Blocks, for as long as it takes to read a few small files.
    ///
    /// A folder need not exist. What cannot be read is among the [`Devices::problems`].
    #[must_use]
    pub fn read(&self) -> Devices {
        let mut found = Found::default();
        for folder in &self.folders {
            found.folder(folder);
        }
        let folders = self.folders.clone();
        let auto_allowed = self.auto_allowed.iter().cloned().collect();
        Devices { known: found.known, folders, auto_allowed, problems: found.problems }
    }
}

#[derive(Default)]
struct Found {
    known: BTreeMap<String, Known>,
    problems: Vec<Problem>,
}

impl Found {
    /// Adds those of one folder.
    fn folder(&mut self, folder: &Path) {
        let paths = match files(folder) {
            Ok(paths) => paths,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.problem(folder, error.to_string()),
        };
        let mut here = BTreeMap::<String, (Known, PathBuf)>::new();
        let mut conflicts = Vec::<String>::new();
        for path in paths {
            let spec = match load(&path) {
                Ok(spec) => Arc::new(spec),
                Err(problem) => {
                    self.problem(&path, problem);
                    continue;
                }
            };
            for (index, device) in spec.devices.iter().enumerate() {
                let name = format!("{}={}", spec.kind, device.name);
                let known = Known { spec: spec.clone(), index };
                match here.get(&name) {
                    Some((_, other)) => {
                        let problem =
                            format!("device {name} is in {} as well: nobody gets it", other.display());
                        self.problem(&path, problem);
                        conflicts.push(name);
                    }
                    None => drop(here.insert(name, (known, path.clone()))),
                }
            }
        }
        self.known.extend(here.into_iter().map(|(name, (known, _))| (name, known)));
        for name in conflicts {
            self.known.remove(&name);
        }
    }

    fn problem(&mut self, path: &Path, problem: String) {
        self.problems.push(Problem { path: path.to_owned(), problem });
    }
}

/// The files of a folder that are specifications by their names, in the order of their names.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if is_json(&path) || path.extension().is_some_and(|ending| ending == "yaml") {
            out.push(path);
        }
        if out.len() > MAX_FILES {
            return Err(std::io::Error::other(format!("more than {MAX_FILES} specifications")));
        }
    }
    out.sort();
    Ok(out)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "json")
}

fn load(path: &Path) -> Result<Spec, String> {
    let said = |error: std::io::Error| error.to_string();
    // Looked at first: to open a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(said)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(said)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(said)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("is larger than {MAX_FILE} bytes"));
    }
    crate::parse(&text, is_json(path)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, path: &str, kind: &str, names: &[&str]) {
            let device = |name: &&str| format!("{{name: {name}, containerEdits: {{env: ['FROM={path}']}}}}");
            let devices: Vec<_> = names.iter().map(device).collect();
            self.write(
                path,
                &format!("cdiVersion: 0.6.0\nkind: {kind}\ndevices: [{}]\n", devices.join(", ")),
            );
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn read(&self) -> Devices {
            let folders = ["one", "two", "none"].map(|name| self.0.path().join(name)).into();
            Registry { folders, auto_allowed: Vec::new() }.read()
        }
    }

    fn names(devices: &Devices) -> Vec<String> {
        devices.list().map(|device| device.name).collect()
    }

    fn env(devices: &Devices, name: &str) -> Vec<String> {
        devices.edits(&[name.to_owned()]).unwrap().into_iter().flat_map(|e| e.env).collect()
    }

    #[test]
    fn the_last_folder_wins() {
        let bench = Bench::new();
        bench.put("one/a.yaml", "v.com/a", &["x", "z"]);
        bench.put("two/b.json", "v.com/a", &["x"]);
        let devices = bench.read();
        assert_eq!(names(&devices), ["v.com/a=x", "v.com/a=z"]);
        assert_eq!(env(&devices, "v.com/a=x"), ["FROM=two/b.json"]);
        assert_eq!(env(&devices, "v.com/a=z"), ["FROM=one/a.yaml"]);
        assert_eq!(devices.problems(), []);
    }

    #[test]
    fn two_of_one_name_in_a_folder_are_none() {
        let bench = Bench::new();
        bench.put("two/a.yaml", "v.com/a", &["x", "z"]);
        bench.put("two/b.yaml", "v.com/a", &["x"]);
        bench.put("one/a.yaml", "v.com/a", &["x"]);
        let devices = bench.read();
        assert_eq!(names(&devices), ["v.com/a=z"]);
        let [problem] = devices.problems() else { panic!("{:?}", devices.problems()) };
        let said = problem.to_string();
        assert!(
            said.contains("two/b.yaml: device v.com/a=x is in ") && said.contains("two/a.yaml"),
            "{said}"
        );
    }

    #[test]
    fn a_broken_file_is_named_and_spoils_nothing() {
        let bench = Bench::new();
        bench.put("one/good.yaml", "v.com/a", &["x"]);
        bench.write("one/bad.yaml", "cdiVersion: 0.6.0\nkind: v.com/b\n");
        bench.write("one/broken.json", "{");
        bench.write("one/empty.yaml", "");
        bench.write("one/large.yaml", &"#".repeat(MAX_FILE as usize + 1));
        bench.write("one/note.txt", "not looked at");
        bench.write("one/deeper/more.yaml", "not looked at");
        std::fs::create_dir(bench.0.path().join("one/folder.yaml")).unwrap();
        std::fs::write(bench.0.path().join("one/bytes.yaml"), b"\xff\xfe").unwrap();
        std::fs::write(bench.0.path().join("two"), "a file in place of a folder").unwrap();
        let devices = bench.read();
        assert_eq!(names(&devices), ["v.com/a=x"]);
        let said: Vec<String> = devices.problems().iter().map(Problem::to_string).collect();
        assert_eq!(said.len(), 7, "{said:?}");
        for (n, part) in
            ["bad.yaml: devices: there are none", "broken.json: ", "bytes.yaml: ", "empty.yaml: "]
                .iter()
                .enumerate()
        {
            assert!(said[n].contains(part), "{said:?}");
        }
    }

    #[test]
    fn a_folder_of_too_many_files_is_a_problem_of_its_own() {
        let bench = Bench::new();
        for n in 0..=MAX_FILES {
            bench.write(&format!("one/{n}.json"), "");
        }
        bench.put("two/a.yaml", "v.com/a", &["x"]);
        let devices = bench.read();
        assert_eq!(names(&devices), ["v.com/a=x"]);
        let [problem] = devices.problems() else { panic!("{}", devices.problems().len()) };
        assert!(problem.to_string().ends_with("one: more than 1000 specifications"), "{problem}");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_endless_links_keep_nobody_waiting() {
        let bench = Bench::new();
        bench.put("one/good.yaml", "v.com/a", &["x"]);
        let one = bench.0.path().join("one");
        std::os::unix::fs::symlink("loop.yaml", one.join("loop.yaml")).unwrap();
        std::os::unix::fs::symlink("good.yaml", one.join("gone.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", one.join("zero.yaml")).unwrap();
        let devices = bench.read();
        // Two names of one file are two files.
        assert_eq!(names(&devices), Vec::<String>::new());
        assert_eq!(devices.problems().len(), 3);
    }
}
