//! Broken engines.

/// A way to break the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    NoSelector,
    AnyOutput,
    AnyInput,
    NeverJoin,
    JoinCached,
    OneVariant,
    Leak,
    CancelAll,
    FailureStays,
    GoneFails,
    ProbeIgnored,
}
