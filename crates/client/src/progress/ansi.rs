//! Escape sequences: colours and cursor movement.

/// Clears from the cursor to the end of the line.
pub(super) const CLEAR_LINE: &str = "\x1b[K";
/// Clears from the cursor to the end of the screen.
pub(super) const CLEAR_BELOW: &str = "\x1b[J";
/// Hides the cursor.
pub(super) const HIDE_CURSOR: &str = "\x1b[?25l";
/// Shows the cursor.
pub(super) const SHOW_CURSOR: &str = "\x1b[?25h";
/// Back to what the terminal does by itself.
pub(super) const RESET: &str = "\x1b[0m";
/// Less bright.
pub(super) const FAINT: &str = "\x1b[2m";

/// Moves the cursor up to the start of a line.
pub(super) fn up(lines: usize) -> String {
    if lines == 0 { "\r".into() } else { format!("\x1b[{lines}F") }
}

/// Colours of steps by what became of them, as escape sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colors {
    /// Steps that run or ran.
    pub run: String,
    /// Steps that were cancelled.
    pub cancel: String,
    /// Steps that failed.
    pub error: String,
    /// Warnings.
    pub warning: String,
}

impl Default for Colors {
    fn default() -> Self {
        let color = |code: u8| format!("\x1b[{code}m");
        Self { run: color(34), cancel: color(33), error: color(31), warning: color(33) }
    }
}

impl Colors {
    /// Reads `run=blue:error=255,0,0`; what is not understood keeps its default.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut colors = Self::default();
        for (key, value) in text.split(':').filter_map(|field| field.split_once('=')) {
            let Some(color) = color(value) else { continue };
            match key {
                "run" => colors.run = color,
                "cancel" => colors.cancel = color,
                "error" => colors.error = color,
                "warning" => colors.warning = color,
                _ => {}
            }
        }
        colors
    }
}

fn color(text: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    let lower = text.to_lowercase();
    let (base, name) = match lower.strip_prefix("light-").or_else(|| lower.strip_prefix("light_")) {
        Some(name) => (90, name),
        None => (30, lower.as_str()),
    };
    if let Some(index) = NAMES.iter().position(|n| *n == name) {
        return Some(format!("\x1b[{}m", base + index));
    }
    let mut parts = text.split(',').map(|part| part.trim().parse::<u8>().ok());
    let (r, g, b) = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then(|| format!("\x1b[38;2;{r};{g};{b}m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_have_names_or_numbers() {
        let colors = Colors::parse("run=red:error=1,2,3:warning=nonsense:x=blue");
        assert_eq!(colors.run, "\x1b[31m");
        assert_eq!(colors.error, "\x1b[38;2;1;2;3m");
        assert_eq!(colors.warning, Colors::default().warning);
    }
}
