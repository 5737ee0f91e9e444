//! Memory for many short texts.

use std::borrow::Cow;

use bytes::BytesMut;
use bytestring::ByteString;

/// Bytes of the first piece of memory; each is twice as large as the one before.
const FIRST_PIECE: usize = 1 << 10;
/// Bytes of the largest.
const LARGEST_PIECE: usize = 64 << 10;

/// Makes texts that lie in memory one behind the other, which takes less of it than a piece for each, and less time.
///
/// Who keeps one of them keeps its piece.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    free: BytesMut,
    /// Bytes of the last piece.
    piece: usize,
    /// Where texts are put together.
    draft: String,
}

impl Texts {
    /// A copy of a text.
    pub(crate) fn keep(&mut self, text: &str) -> ByteString {
        if text.len() > LARGEST_PIECE / 8 {
            return text.into();
        }
        if self.free.capacity() < text.len() {
            self.piece = (self.piece * 2).clamp(FIRST_PIECE, LARGEST_PIECE).max(text.len());
            self.free = BytesMut::with_capacity(self.piece);
        }
        self.free.extend_from_slice(text.as_bytes());
        // What was a text is one still.
        self.free.split().freeze().try_into().unwrap_or_default()
    }

    /// A text that was made of another one: the part of that which it is, or else a copy.
    pub(crate) fn share(&mut self, text: &ByteString, made: Cow<'_, str>) -> ByteString {
        match made {
            Cow::Borrowed(part) => text.slice_ref(part),
            Cow::Owned(made) => self.keep(&made),
        }
    }

    /// What `write` writes to an empty text.
    pub(crate) fn make(&mut self, write: impl FnOnce(&mut String)) -> ByteString {
        let mut draft = std::mem::take(&mut self.draft);
        draft.clear();
        write(&mut draft);
        let text = self.keep(&draft);
        self.draft = draft;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lie_one_behind_the_other() {
        let mut texts = Texts::default();
        let long = "y".repeat(LARGEST_PIECE);
        let made: Vec<_> = (0..5000).map(|n| texts.make(|out| out.push_str(&format!("text {n}")))).collect();
        let (kept, large) = (texts.keep(""), texts.keep(&long));
        assert!(kept.is_empty() && large == long);
        for (n, text) in made.iter().enumerate() {
            assert_eq!(*text, format!("text {n}"));
        }
        let follows = |pair: &&[ByteString]| pair[0].as_bytes().as_ptr_range().end == pair[1].as_ptr();
        assert!(made.windows(2).filter(follows).count() > 4980);
    }
}
