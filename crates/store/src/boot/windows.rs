/// Windows keeps no boot id that an ordinary process can read.
pub(super) fn id() -> Option<String> {
    None
}
