//! The answer to "why was this not cached?". Its JSON is an interface: `docs/why.md` describes it, and a test pins it.

use serde::{Deserialize, Serialize};

/// The version of the JSON. Fields may be added to it; what is there keeps its meaning.
pub const VERSION: u32 = 1;

/// Why the steps of a build ran, or did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// The build.
    pub build: BuildInfo,
    /// The latest earlier build of the same thing, with which most steps are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<BuildInfo>,
    /// How many steps ended how, housekeeping aside; also of those that are not in the list.
    pub counts: Counts,
    /// The steps, those of a frontend's housekeeping last.
    pub steps: Vec<StepAnswer>,
    /// What could not be read, and what that means.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How many steps of a build ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// They ran, with success or without.
    pub ran: usize,
    /// They were in a cache.
    pub cached: usize,
    /// Nobody needed them.
    pub unneeded: usize,
}

/// A build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    /// Its ref.
    #[serde(rename = "ref")]
    pub reference: String,
    /// When it began, as RFC 3339.
    pub started: String,
    /// When it ended.
    pub ended: String,
    /// How.
    pub outcome: Outcome,
    /// Its error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With a result.
    Succeeded,
    /// With an error.
    Failed,
    /// Its client left, or stopped it.
    Canceled,
}

/// What is to be said of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepAnswer {
    /// Its number in this list; housekeeping has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// Its name, as progress shows it.
    pub name: String,
    /// The digest of its vertex.
    pub digest: String,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Place>,
    /// How it ended.
    pub status: Status,
    /// Its error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How long it took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Of a cached step: how it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_by: Option<FoundBy>,
    /// Of a cached step that was loaded: the store that had it, `local` or the name of an imported cache.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store: String,
    /// Of a step that ran: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// More about the cause, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The step of an earlier build that it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_with: Option<Compared>,
    /// In what it differs from that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// How many files differ beyond those that are listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_files: usize,
    /// Whether more files may differ, as the lists that are kept of them are not complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub files_incomplete: bool,
    /// The steps that it takes as inputs and that are not what they were.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<Follow>,
    /// Where what it follows has changed in the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<Root>,
    /// An earlier build that had a result for the very same step, which is gone by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_since: Option<Compared>,
    /// The key that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: i32,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It ran.
    Ran,
    /// It was in a cache.
    Cached,
    /// Nobody needed it: what follows from it was in a cache.
    Unneeded,
    /// A source of which only its key was needed.
    Resolved,
    /// It shared the work of an equal step.
    Joined,
    /// It ran and failed.
    Failed,
    /// It was stopped.
    Canceled,
    /// The build ended before it was looked at.
    Pending,
}

/// How a cached step was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// By its definition and the keys of its inputs.
    Definition,
    /// By the content of its inputs.
    Content,
}

/// Why a step ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The build asked to ignore the cache for it.
    Ignored,
    /// It differs from what it was.
    Changed,
    /// It is what it was, but what it follows from is not.
    Follows,
    /// It is what it was, but its result is gone: pruned, or collected as garbage.
    Removed,
    /// A result was found, but could not be used.
    Lost,
    /// It is what it was, but no build has finished it.
    Unfinished,
    /// Earlier builds of the project are known, but none had it.
    NewStep,
    /// No earlier build is known that it could be compared with.
    NoEarlierBuild,
    /// No cache can have it: it takes a client's folder as a whole, of which nothing but the session is known.
    Uncacheable,
    /// A client's folder is always looked at anew. Steps that use it go by its content.
    Always,
    /// No difference is known.
    Unknown,
}

/// The step of another build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The ref of the build.
    #[serde(rename = "ref")]
    pub reference: String,
    /// When it ended, as RFC 3339.
    pub ended: String,
    /// The name that the step had.
    pub step: String,
}

/// One difference between a step and what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In what.
    pub kind: Kind,
    /// Which of its kind: a path, a variable, a mount's target, an image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What became of it.
    pub change: Change,
    /// What it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The build argument whose change explains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_arg: Option<String>,
    /// The input that it is a difference of, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<usize>,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// It is another.
    Changed,
}

/// In what a step differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The program and its arguments.
    Command,
    /// A variable of the environment.
    Env,
    /// A build argument, which the step has in its environment.
    BuildArg,
    /// The working directory.
    Workdir,
    /// The user.
    User,
    /// The name of the host.
    Hostname,
    /// A host name of the build.
    ExtraHost,
    /// A limit.
    Ulimit,
    /// The parent cgroup.
    CgroupParent,
    /// The exit codes that count as success, and other options of the process.
    Option,
    /// The network mode.
    Network,
    /// The security mode.
    Security,
    /// A mount, by its target.
    Mount,
    /// A secret in the environment.
    SecretEnv,
    /// A device.
    Device,
    /// The platform.
    Platform,
    /// What a file operation does.
    FileAction,
    /// An image.
    Image,
    /// A git repository.
    Git,
    /// A web address.
    Http,
    /// Another source.
    Source,
    /// A file that the step uses.
    File,
    /// Files that the step uses, of which no list is kept.
    Files,
    /// An input that is there now or was there before.
    Input,
    /// Something else in its definition.
    Definition,
}

/// A step that another follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Which input, from 0.
    pub input: usize,
    /// The step's number, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// Its name.
    pub name: String,
    /// The name of the step that was there before, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A step that is the reason why others ran that follow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its number, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<usize>,
    /// Its name.
    pub name: String,
    /// Why it ran.
    pub cause: Cause,
    /// More about the cause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// In what it differs, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// How many differences there are beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
}

/// The key that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The digests of the op's cache maps.
    pub digests: Vec<String>,
    /// What was known of each input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<KeyInput>,
    /// What the engine found: `ignore-cache`, `no-match`, `no-common-key`, `unknown-digest`, `no-result`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
}

/// An input in a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInput {
    /// The step that it is.
    pub name: String,
    /// The digest that stands for the paths that are used of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The digest of what is used of it, if it was hashed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// To how many keys of the step it led.
    pub matches: u32,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}
