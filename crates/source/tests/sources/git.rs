//! Repositories, over the dumb and the smart protocol.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kiln_proto::{
    limits::Limited as _,
    secrets::{
        GetSecretRequest, GetSecretResponse,
        secrets_server::{Secrets, SecretsServer},
    },
};
use kiln_session::client::ClientSession;
use kiln_source::{Metadata, MetadataRequest, commit_time};
use tonic::{Request, Response, Status};

use crate::support::{Answer, Fixture, Server, connect, context, files, fixture, nobody, op};

struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let new = Self(tempfile::tempdir().unwrap());
        new.git("init -q -b main");
        new
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn git(&self, args: &str) -> String {
        let mut command = Command::new("git");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "T").env(format!("GIT_{who}_EMAIL"), "t@example.com");
            command.env(format!("GIT_{who}_DATE"), "1700000000 +0100");
        }
        let config = ["-c", "protocol.file.allow=always"];
        let output = command.current_dir(self.path()).args(config).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "git {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.git("add -A");
        self.git("commit -q -m commit --allow-empty");
        self.git("update-server-info");
        self.git("rev-parse HEAD")
    }

    /// Serves `.git` as files, to those with `token` if one is given.
    async fn serve(&self, token: Option<&'static str>) -> Server {
        let root = self.path().join(".git");
        Server::start(move |request| {
            if let Some(token) = token {
                let wanted = format!("basic {}", BASE64_STANDARD.encode(format!("x-access-token:{token}")));
                if request.headers.get("authorization") != Some(&wanted) {
                    return Answer::status("401 Unauthorized").header("WWW-Authenticate", "Basic realm=x");
                }
            }
            let path = request.path.split('?').next().unwrap_or_default();
            let path = path.strip_prefix("/.git/").unwrap_or("none");
            std::fs::read(root.join(path)).map_or_else(|_| Answer::status("404 Not Found"), Answer::ok)
        })
        .await
    }
}

/// The smart protocol, on a port of its own.
struct Daemon(std::process::Child, u16);

impl Daemon {
    fn start(base: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self(child, port)
    }

    fn url(&self) -> String {
        format!("git://127.0.0.1:{}/.git", self.1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `git daemon` runs the server as a child, which ends when its parent's listening socket does.
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id()));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Some(pid) = child.parse().ok().and_then(rustix::process::Pid::from_raw) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
        }
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The op as clients make it: the identifier without the scheme, the URL beside it.
fn git_op(url: &str, fragment: &str, attrs: &[(&str, &str)]) -> kiln_proto::pb::SourceOp {
    let (_, rest) = url.split_once("://").unwrap();
    let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
    op(format!("git://{rest}{fragment}"), &[&[("git.fullurl", url)], attrs].concat())
}

/// One repository with all kinds of refs, its URLs, and what keeps these alive.
struct World {
    fixture: Fixture,
    repo: Repository,
    server: Server,
    daemon: Daemon,
    first: String,
    second: String,
}

async fn world() -> Option<World> {
    let fixture = fixture()?;
    let repo = Repository::new();
    let first = repo.commit(&[("a", "1"), ("sub/dir/file", "deep")]);
    repo.git("tag -a v1 -m first");
    repo.git("tag light");
    repo.git("update-ref refs/pull/1/head HEAD");
    std::os::unix::fs::symlink("/etc", repo.path().join("sub/link")).unwrap();
    let second = repo.commit(&[("a", "2")]);
    repo.git("branch feature/x");
    repo.git("update-server-info");
    let server = repo.serve(None).await;
    let daemon = Daemon::start(repo.path());
    Some(World { fixture, server, daemon, repo, first, second })
}

impl World {
    fn urls(&self) -> [String; 2] {
        [self.server.url("/.git"), self.daemon.url()]
    }
}

#[tokio::test]
async fn every_kind_of_ref() {
    let Some(world) = world().await else { return };
    let tag = world.repo.git("rev-parse v1");
    let old = ["a=1", "sub/", "sub/dir/", "sub/dir/file=deep"].map(str::to_owned);
    for url in world.urls() {
        for (fragment, pin, key, first) in [
            ("", &world.second, &world.second, false),
            ("main", &world.second, &world.second, false),
            ("feature/x", &world.second, &world.second, false),
            ("refs/heads/main", &world.second, &world.second, false),
            ("v1", &tag, &world.first, true),
            ("refs/tags/v1", &tag, &world.first, true),
            ("light", &world.first, &world.first, true),
            ("refs/pull/1/head", &world.first, &world.first, true),
            (world.first.as_str(), &world.first, &world.first, true),
        ] {
            let built = world.fixture.build(&git_op(&url, fragment, &[]), &nobody()).await;
            let (found, tree) = built.unwrap_or_else(|e| panic!("{url}#{fragment}: {e}"));
            assert_eq!((&found.key, &found.pin), (key, pin), "{url}#{fragment}");
            assert_eq!(files(&tree) == old, first, "{url}#{fragment}");
            assert_eq!(tree.record_type().as_str(), "source.git.checkout");
        }
        let missing = world.fixture.build(&git_op(&url, "nothing", &[]), &nobody()).await.unwrap_err();
        assert!(missing.to_string().contains("repository does not contain ref nothing"), "{missing}");
    }
    let dashed = world.fixture.open(&git_op(&world.daemon.url(), "--upload-pack=x", &[]));
    assert!(dashed.is_err());
}

#[tokio::test]
async fn a_commit_is_fetched_once() {
    let Some(world) = world().await else { return };
    let op = git_op(&world.server.url("/.git"), "main", &[]);
    let (_, tree) = world.fixture.build(&op, &nobody()).await.unwrap();
    world.server.asked();
    let (_, again) = world.fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(tree, again);
    assert!(world.server.asked().iter().all(|asked| !asked.contains("/objects/")));
    // Another part of the same commit comes out of what is here.
    let op = git_op(&world.server.url("/.git"), "main:sub/dir", &[]);
    let (key, tree) = world.fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!((key.key, files(&tree)), (format!("{}:sub/dir", world.second), vec!["file=deep".to_owned()]));
    assert!(world.server.asked().iter().all(|asked| !asked.contains("/objects/")));
}

#[tokio::test]
async fn no_folder_leads_out() {
    let Some(world) = world().await else { return };
    for bad in ["sub/link", "a", "sub/nothing", "sub/link/ssh"] {
        let op = git_op(&world.daemon.url(), &format!("main:{bad}"), &[]);
        let error = world.fixture.build(&op, &nobody()).await.unwrap_err().to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[tokio::test]
async fn checksums_pin() {
    let Some(world) = world().await else { return };
    let url = world.daemon.url();
    let tag = world.repo.git("rev-parse v1");
    for (fragment, checksum, fits) in [
        ("main", &world.second[..7], true),
        ("v1", &tag[..12], true),
        ("v1", &world.first[..12], true),
        (world.first.as_str(), &world.first[..9], true),
        ("main", &world.first[..7], false),
        (world.first.as_str(), &world.second[..9], false),
    ] {
        let built =
            world.fixture.build(&git_op(&url, fragment, &[("git.checksum", checksum)]), &nobody()).await;
        match built {
            Ok(_) => assert!(fits, "{fragment} {checksum}"),
            Err(error) => {
                assert!(!fits && error.to_string().contains("expected checksum to match"), "{error}");
            }
        }
    }
    let attrs = [("git.checksum", world.first.as_str()), ("git.fetchbycommit", "true")];
    let (key, tree) = world.fixture.build(&git_op(&url, "main", &attrs), &nobody()).await.unwrap();
    assert_eq!((key.key, files(&tree)[0].as_str()), (world.first.clone(), "a=1"));
}

#[tokio::test]
async fn a_ref_that_moves_meanwhile_is_what_it_was() {
    let Some(world) = world().await else { return };
    for url in world.urls() {
        let source = world.fixture.open(&git_op(&url, "main", &[])).unwrap();
        let cx = context(&nobody());
        let key = source.key(&cx, 0).await.unwrap();
        world.repo.commit(&[("a", &format!("moved {url}"))]);
        let tree = source.snapshot(&cx).await.unwrap().unwrap();
        let expected = world.repo.git(&format!("show {}:a", key.pin));
        assert_eq!(files(&tree)[0], format!("a={expected}"));
    }
}

#[tokio::test]
async fn the_repository_can_be_kept() {
    let Some(world) = world().await else { return };
    let tag = world.repo.git("rev-parse v1");
    for url in world.urls() {
        for (fragment, key, head, reference) in [
            ("", format!("{}.git#refs/heads/main", world.second), &world.second, "refs/heads/main"),
            ("v1", format!("{tag}.git#refs/tags/v1"), &world.first, "refs/tags/v1"),
            (world.first.as_str(), format!("{0}.git#{0}", world.first), &world.first, ""),
        ] {
            let op = git_op(&url, fragment, &[("git.keepgitdir", "true")]);
            let (found, tree) = world.fixture.build(&op, &nobody()).await.unwrap();
            assert_eq!(found.key, key);
            let root = tree.unpacked().unwrap().open().unwrap();
            let read = |path: &str| String::from_utf8(root.read(path, 1 << 20).unwrap()).unwrap();
            assert_eq!(read(".git/HEAD").trim(), head);
            let config = read(".git/config");
            assert!(config.contains(&format!("url = {url}")), "{config}");
            if !reference.is_empty() {
                assert!(root.stat(format!(".git/{reference}")).is_ok(), "{reference}");
            }
            assert!(root.stat(".git/hooks").is_err() && root.stat(".git/FETCH_HEAD").is_err());
        }
    }
}

#[tokio::test]
async fn times_of_the_commit() {
    let Some(world) = world().await else { return };
    let op = git_op(&world.daemon.url(), "main", &[("git.mtime", "commit")]);
    let (key, tree) = world.fixture.build(&op, &nobody()).await.unwrap();
    assert_eq!(key.key, format!("{}(mtime=commit)", world.second));
    let root = tree.unpacked().unwrap().open().unwrap();
    for path in ["a", "sub", "sub/link", "sub/dir/file"] {
        assert_eq!(root.stat(path).unwrap().mtime.secs, 1_700_000_000, "{path}");
    }
    assert_eq!(root.stat("a").unwrap().mode, 0o644);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submodules_come_along_unless_they_lead_astray() {
    let Some(fixture) = fixture() else { return };
    let inner = Repository::new();
    inner.commit(&[("inner", "x")]);
    let inner_server = inner.serve(None).await;
    let outer = Repository::new();
    outer.commit(&[("a", "1")]);
    outer.git(&format!("submodule --quiet add {} mod", inner_server.url("/.git")));
    outer.commit(&[]);
    let server = outer.serve(None).await;
    let url = server.url("/.git");
    let (_, tree) = fixture.build(&git_op(&url, "", &[]), &nobody()).await.unwrap();
    let all = files(&tree);
    assert!(all.contains(&"mod/inner=x".to_owned()), "{all:?}");
    assert!(!all.iter().any(|f| f.contains("mod/.git")), "{all:?}");
    let (key, tree) =
        fixture.build(&git_op(&url, "", &[("git.skipsubmodules", "true")]), &nobody()).await.unwrap();
    assert!(key.key.ends_with("(skip-submodules)") && !files(&tree).iter().any(|f| f.contains("inner")));
    let (_, tree) = fixture.build(&git_op(&url, "", &[("git.keepgitdir", "true")]), &nobody()).await.unwrap();
    assert!(files(&tree).contains(&"mod/inner=x".to_owned()));

    // Neither programs nor the daemon's own files.
    let proof = outer.path().join("proof");
    let bad =
        [format!("ext::sh -c touch% {}", proof.display()), format!("file://{}", inner.path().display())];
    for url_of_module in bad {
        outer
            .git(&format!("config -f .gitmodules submodule.mod.url {}", url_of_module.replace(' ', "\u{1}")));
        let modules = outer.path().join(".gitmodules");
        let text = std::fs::read_to_string(&modules).unwrap().replace('\u{1}', " ");
        std::fs::write(&modules, text).unwrap();
        outer.commit(&[]);
        let error = fixture.build(&git_op(&url, "", &[]), &nobody()).await.unwrap_err().to_string();
        assert!(error.contains("failed to update submodules"), "{error}");
        assert!(!proof.exists());
    }
}

struct Token;

#[tonic::async_trait]
impl Secrets for Token {
    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        match request.into_inner().id.as_str() {
            "TOKEN" => Ok(GetSecretResponse { data: "s3cr3t\n".into() }.into()),
            other => Err(Status::not_found(other)),
        }
    }
}

#[tokio::test]
async fn a_token_opens_the_door_and_is_never_shown() {
    let Some(fixture) = fixture() else { return };
    let repo = Repository::new();
    repo.commit(&[("a", "1")]);
    let server = repo.serve(Some("s3cr3t")).await;
    let url = server.url("/.git");
    let (sessions, _client) = connect(ClientSession::new("").with(SecretsServer::new(Token).limited())).await;
    let with_token = git_op(&url, "", &[("git.authtokensecret", "TOKEN")]);
    let (_, tree) = fixture.build(&with_token, &sessions).await.unwrap();
    assert_eq!(files(&tree), ["a=1"]);
    let error = fixture.build(&git_op(&url, "", &[]), &nobody()).await.unwrap_err().to_string();
    assert!(error.contains("failed to fetch remote"), "{error}");
    let with_password = url.replace("http://", "http://me:hunter2@");
    let error = fixture.build(&git_op(&with_password, "", &[]), &nobody()).await.unwrap_err().to_string();
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn metadata_with_and_without_objects() {
    let Some(world) = world().await else { return };
    let (sessions, _client) = connect(ClientSession::new("")).await;
    let tag = world.repo.git("rev-parse v1");
    let op = git_op(&world.server.url("/.git"), "v1", &[]);
    let ask = async |objects| {
        let request = MetadataRequest { git_objects: objects, ..MetadataRequest::default() };
        match world.fixture.sources.metadata(&op, &sessions, &request).await.unwrap().unwrap() {
            Metadata::Git(git) => git,
            other => panic!("{other:?}"),
        }
    };
    let plain = ask(false).await;
    assert_eq!((plain.reference.as_str(), &plain.checksum), ("refs/tags/v1", &tag));
    assert_eq!((plain.commit_checksum.as_ref(), plain.commit_object.is_some()), (Some(&world.first), false));
    // The build goes on meaning the same, also when the tag moves.
    world.repo.git("tag -f -a v1 -m second");
    world.repo.git("update-server-info");
    let full = ask(true).await;
    assert_eq!((&full.checksum, full.commit_checksum.as_ref()), (&tag, Some(&world.first)));
    assert_eq!(full.commit_object.as_deref().and_then(commit_time), Some(1_700_000_000));
    assert!(full.tag_object.unwrap().starts_with(format!("object {}", world.first).as_bytes()));
    let (key, tree) = world.fixture.build(&op, &sessions).await.unwrap();
    assert_eq!((key.key.as_str(), files(&tree)[0].as_str()), (world.first.as_str(), "a=1"));
}

#[tokio::test]
async fn what_a_killed_git_left_is_no_obstacle() {
    let Some(world) = world().await else { return };
    let url = world.daemon.url();
    let build = async |fragment: &str| world.fixture.build(&git_op(&url, fragment, &[]), &nobody()).await;
    build("v1").await.unwrap();
    let bare: Vec<PathBuf> = bare_repositories(&world);
    assert_eq!(bare.len(), 1);
    for lock in ["shallow.lock", "packed-refs.lock", "config.lock"] {
        std::fs::write(bare[0].join(lock), "").unwrap();
    }
    build("main").await.unwrap();
    std::fs::write(bare[0].join("HEAD"), "garbage").unwrap();
    world.repo.commit(&[("a", "3")]);
    assert_eq!(files(&build("main").await.unwrap().1)[0], "a=3");
}

fn bare_repositories(world: &World) -> Vec<PathBuf> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.join("HEAD").is_file() && path.join("objects").is_dir() {
                out.push(path);
            } else if entry.file_type().unwrap().is_dir() {
                walk(&path, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(world.fixture.dir(), &mut out);
    out
}
