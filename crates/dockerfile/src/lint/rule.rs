//! The rules, by the names, links and messages that BuildKit's users know.

use std::fmt;

/// A lint rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Upper-case letters in a stage's name.
    StageNameCasing,
    /// `FROM … as`, `from … AS`.
    FromAsCasing,
    /// Blank lines among continuation lines.
    NoEmptyContinuation,
    /// `RUN` here, `run` there.
    ConsistentInstructionCasing,
    /// Two stages with one name.
    DuplicateStageName,
    /// A stage named `scratch` or `context`.
    ReservedStageName,
    /// CMD or ENTRYPOINT in shell form.
    JsonArgsRecommended,
    /// MAINTAINER.
    MaintainerDeprecated,
    /// A variable in FROM that no ARG declares.
    UndefinedArgInFrom,
    /// A relative WORKDIR before any absolute one.
    WorkdirRelativePath,
    /// A variable that nothing defines.
    UndefinedVar,
    /// CMD, ENTRYPOINT or HEALTHCHECK twice in a stage.
    MultipleInstructionsDisallowed,
    /// `ENV key value`.
    LegacyKeyValueFormat,
    /// An image of another platform than the one asked for.
    InvalidBaseImagePlatform,
    /// `FROM --platform=$TARGETPLATFORM`.
    RedundantTargetPlatform,
    /// An ARG or ENV that looks like a password.
    SecretsUsedInArgOrEnv,
    /// A FROM that names no image when no build arguments are given.
    InvalidDefaultArgInFrom,
    /// `FROM --platform=linux/amd64`.
    FromPlatformFlagConstDisallowed,
    /// COPY of what `.dockerignore` leaves out.
    CopyIgnoredFile,
    /// A comment above an ARG or a stage that is no description of it.
    InvalidDefinitionDescription,
    /// `EXPOSE 80/TCP`.
    ExposeProtoCasing,
    /// `EXPOSE 127.0.0.1:80:80`.
    ExposeInvalidFormat,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JsonArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// The name, as `check=skip=` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JsonArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// What the rule is about, in one sentence. Clients show it as the detail of a warning.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "Stage names should be lowercase",
            Self::FromAsCasing => "The 'as' keyword should match the case of the 'from' keyword",
            Self::NoEmptyContinuation => "Empty continuation lines will become errors in a future release",
            Self::ConsistentInstructionCasing => {
                "All commands within the Dockerfile should use the same casing (either upper or lower)"
            }
            Self::DuplicateStageName => "Stage names should be unique",
            Self::ReservedStageName => "Reserved words should not be used as stage names",
            Self::JsonArgsRecommended => {
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
            }
            Self::MaintainerDeprecated => {
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
            }
            Self::UndefinedArgInFrom => "FROM command must use declared ARGs",
            Self::WorkdirRelativePath => {
                "Relative workdir without an absolute workdir declared within the build can have unexpected results \
                 if the base image changes"
            }
            Self::UndefinedVar => "Variables should be defined before their use",
            Self::MultipleInstructionsDisallowed => {
                "Multiple instructions of the same type should not be used in the same stage"
            }
            Self::LegacyKeyValueFormat => {
                "Legacy key/value format with whitespace separator should not be used"
            }
            Self::InvalidBaseImagePlatform => "Base image platform does not match expected target platform",
            Self::RedundantTargetPlatform => {
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
            }
            Self::SecretsUsedInArgOrEnv => "Sensitive data should not be used in the ARG or ENV commands",
            Self::InvalidDefaultArgInFrom => {
                "Default value for global ARG results in an empty or invalid base image name"
            }
            Self::FromPlatformFlagConstDisallowed => "FROM --platform flag should not use a constant value",
            Self::CopyIgnoredFile => "Attempting to Copy file that is excluded by .dockerignore",
            Self::InvalidDefinitionDescription => {
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. \
                 If this is not intended to be a description comment, add an empty line or comment between the \
                 instruction and the comment."
            }
            Self::ExposeProtoCasing => "Protocol in EXPOSE instruction should be lowercase",
            Self::ExposeInvalidFormat => {
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an \
                 error in a future release"
            }
        }
    }

    /// Where the rule is explained; empty for the one rule without a page.
    #[must_use]
    pub fn url(self) -> String {
        if self == Self::InvalidBaseImagePlatform {
            return String::new();
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", self.slug())
    }

    /// The name in small letters with dashes, as links spell it.
    #[must_use]
    pub fn slug(self) -> String {
        // The one name with an abbreviation in it.
        let name = self.name().replace("JSON", "Json");
        let mut slug = String::with_capacity(name.len() + 6);
        for c in name.chars() {
            if c.is_ascii_uppercase() && !slug.is_empty() {
                slug.push('-');
            }
            slug.push(c.to_ascii_lowercase());
        }
        slug
    }

    /// Off unless asked for.
    #[must_use]
    pub fn is_experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }
}

/// How a rule was broken; `Display` is the warning's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding<'a> {
    /// The stage's name as spelled.
    StageNameCasing(&'a str),
    /// The two keywords as spelled.
    FromAsCasing {
        /// `FROM`
        from: &'a str,
        /// `as`
        r#as: &'a str,
    },
    /// A blank line inside an instruction.
    NoEmptyContinuation,
    /// A keyword unlike the majority.
    ConsistentInstructionCasing {
        /// As spelled.
        keyword: &'a str,
        /// The majority is in lower case.
        lower: bool,
    },
    /// The name.
    DuplicateStageName(&'a str),
    /// The name.
    ReservedStageName(&'a str),
    /// The instruction as spelled.
    JsonArgsRecommended(&'a str),
    /// MAINTAINER.
    MaintainerDeprecated,
    /// A variable of a FROM.
    UndefinedArgInFrom {
        /// Its name.
        name: &'a str,
        /// A declared one like it.
        nearest: Option<&'a str>,
    },
    /// The path.
    WorkdirRelativePath(&'a str),
    /// A variable.
    UndefinedVar {
        /// Its name.
        name: &'a str,
        /// A defined one like it.
        nearest: Option<&'a str>,
    },
    /// The instruction as spelled.
    MultipleInstructionsDisallowed(&'a str),
    /// The instruction as spelled.
    LegacyKeyValueFormat(&'a str),
    /// An image of another platform.
    InvalidBaseImagePlatform {
        /// The image.
        image: &'a str,
        /// The platform asked for.
        expected: &'a str,
        /// The image's platform.
        actual: &'a str,
    },
    /// The value of `--platform` as written.
    RedundantTargetPlatform(&'a str),
    /// A variable named like a secret.
    SecretsUsedInArgOrEnv {
        /// `ARG` or `ENV`
        instruction: &'a str,
        /// Its name.
        key: &'a str,
    },
    /// The base as written.
    InvalidDefaultArgInFrom(&'a str),
    /// The platform.
    FromPlatformFlagConstDisallowed(&'a str),
    /// A source that is ignored.
    CopyIgnoredFile {
        /// `Copy` or `Add`
        action: &'a str,
        /// The path.
        path: &'a str,
    },
    /// A comment that describes something else.
    InvalidDefinitionDescription {
        /// `FROM` or `ARG`
        instruction: &'a str,
        /// What the description should begin with.
        name: &'a str,
    },
    /// The port as written.
    ExposeProtoCasing(&'a str),
    /// The port as written.
    ExposeInvalidFormat(&'a str),
}

impl Finding<'_> {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> Rule {
        match self {
            Self::StageNameCasing(_) => Rule::StageNameCasing,
            Self::FromAsCasing { .. } => Rule::FromAsCasing,
            Self::NoEmptyContinuation => Rule::NoEmptyContinuation,
            Self::ConsistentInstructionCasing { .. } => Rule::ConsistentInstructionCasing,
            Self::DuplicateStageName(_) => Rule::DuplicateStageName,
            Self::ReservedStageName(_) => Rule::ReservedStageName,
            Self::JsonArgsRecommended(_) => Rule::JsonArgsRecommended,
            Self::MaintainerDeprecated => Rule::MaintainerDeprecated,
            Self::UndefinedArgInFrom { .. } => Rule::UndefinedArgInFrom,
            Self::WorkdirRelativePath(_) => Rule::WorkdirRelativePath,
            Self::UndefinedVar { .. } => Rule::UndefinedVar,
            Self::MultipleInstructionsDisallowed(_) => Rule::MultipleInstructionsDisallowed,
            Self::LegacyKeyValueFormat(_) => Rule::LegacyKeyValueFormat,
            Self::InvalidBaseImagePlatform { .. } => Rule::InvalidBaseImagePlatform,
            Self::RedundantTargetPlatform(_) => Rule::RedundantTargetPlatform,
            Self::SecretsUsedInArgOrEnv { .. } => Rule::SecretsUsedInArgOrEnv,
            Self::InvalidDefaultArgInFrom(_) => Rule::InvalidDefaultArgInFrom,
            Self::FromPlatformFlagConstDisallowed(_) => Rule::FromPlatformFlagConstDisallowed,
            Self::CopyIgnoredFile { .. } => Rule::CopyIgnoredFile,
            Self::InvalidDefinitionDescription { .. } => Rule::InvalidDefinitionDescription,
            Self::ExposeProtoCasing(_) => Rule::ExposeProtoCasing,
            Self::ExposeInvalidFormat(_) => Rule::ExposeInvalidFormat,
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StageNameCasing(name) => write!(f, "Stage name '{name}' should be lowercase"),
            Self::FromAsCasing { from, r#as } => {
                write!(f, "'{as}' and '{from}' keywords' casing do not match")
            }
            Self::NoEmptyContinuation => f.write_str("Empty continuation line"),
            Self::ConsistentInstructionCasing { keyword, lower } => {
                let casing = if lower { "lowercase" } else { "uppercase" };
                write!(f, "Command '{keyword}' should match the case of the command majority ({casing})")
            }
            Self::DuplicateStageName(name) => {
                write!(f, "Duplicate stage name {name:?}, stage names should be unique")
            }
            Self::ReservedStageName(name) => {
                write!(f, "Stage name should not use the same name as reserved stage {name:?}")
            }
            Self::JsonArgsRecommended(name) => write!(
                f,
                "JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            ),
            Self::MaintainerDeprecated => {
                f.write_str("Maintainer instruction is deprecated in favor of using label")
            }
            Self::UndefinedArgInFrom { name, nearest } => {
                write!(f, "FROM argument '{name}' is not declared")?;
                nearest.map_or(Ok(()), |nearest| write!(f, " (did you mean {nearest}?)"))
            }
            Self::WorkdirRelativePath(path) => {
                write!(f, "Relative workdir {path:?} can have unexpected results if the base image changes")
            }
            Self::UndefinedVar { name, nearest } => {
                write!(f, "Usage of undefined variable '${name}'")?;
                nearest.map_or(Ok(()), |nearest| write!(f, " (did you mean ${nearest}?)"))
            }
            Self::MultipleInstructionsDisallowed(name) => write!(
                f,
                "Multiple {name} instructions should not be used in the same stage because only the last one will \
                 be used"
            ),
            Self::LegacyKeyValueFormat(name) => {
                write!(f, "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format")
            }
            Self::InvalidBaseImagePlatform { image, expected, actual } => write!(
                f,
                "Base image {image} was pulled with platform {actual:?}, expected {expected:?} for current build"
            ),
            Self::RedundantTargetPlatform(value) => write!(
                f,
                "Setting platform to predefined {value} in FROM is redundant as this is the default behavior"
            ),
            Self::SecretsUsedInArgOrEnv { instruction, key } => {
                write!(f, "Do not use ARG or ENV instructions for sensitive data ({instruction} {key:?})")
            }
            Self::InvalidDefaultArgInFrom(base) => {
                write!(f, "Default value for ARG {base} results in empty or invalid base image name")
            }
            Self::FromPlatformFlagConstDisallowed(platform) => {
                write!(f, "FROM --platform flag should not use constant value {platform:?}")
            }
            Self::CopyIgnoredFile { action, path } => {
                write!(f, "Attempting to {action} file {path:?} that is excluded by .dockerignore")
            }
            Self::InvalidDefinitionDescription { instruction, name } => {
                write!(f, "Comment for {instruction} should follow the format: `# {name} <description>`")
            }
            Self::ExposeProtoCasing(port) => {
                write!(f, "Defined protocol '{port}' in EXPOSE instruction should be lowercase")
            }
            Self::ExposeInvalidFormat(port) => write!(
                f,
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_of_names() {
        assert_eq!(
            Rule::JsonArgsRecommended.url(),
            "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
        );
        assert_eq!(Rule::SecretsUsedInArgOrEnv.slug(), "secrets-used-in-arg-or-env");
        assert_eq!(Rule::InvalidBaseImagePlatform.url(), "");
    }

    #[test]
    fn every_rule_is_listed_once() {
        let names: std::collections::BTreeSet<_> = Rule::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
    }
}
