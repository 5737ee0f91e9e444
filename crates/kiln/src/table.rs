//! Tables whose columns are padded with tabs, as Go's tab writer makes them.

use std::io::{self, Write};

/// Columns are a multiple of this.
const TAB: usize = 8;
/// Columns have at least so much behind the text.
const PADDING: usize = 1;

/// Rows that are aligned when they are written.
#[derive(Default)]
pub(crate) struct Table(Vec<Vec<String>>);

impl Table {
    /// No rows.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a row. Every cell but the last ends with a tab; a last cell that is empty means that the one before ends with one, too.
    pub(crate) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.0.push(cells.map(str::to_owned).to_vec());
    }

    /// Adds a row of any length.
    pub(crate) fn cells(&mut self, cells: Vec<String>) {
        self.0.push(cells);
    }

    /// Writes all rows, and begins anew.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub(crate) fn write(&mut self, out: &mut impl Write) -> io::Result<()> {
        let rows = std::mem::take(&mut self.0);
        for (index, row) in rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                write!(out, "{cell}")?;
                if column + 1 < row.len() {
                    let tabs = width(&rows, index, column).saturating_sub(cell.chars().count()).div_ceil(TAB);
                    write!(out, "{}", "\t".repeat(tabs))?;
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// The width of a column around a row: of all rows above and below that have the column without a gap.
fn width(rows: &[Vec<String>], index: usize, column: usize) -> usize {
    let has = |row: &&Vec<String>| row.len() > column + 1;
    let above = rows[..index].iter().rev().take_while(has);
    let below = rows[index..].iter().take_while(has);
    let widest = above.chain(below).map(|row| row[column].chars().count()).max().unwrap_or_default();
    (widest + PADDING).div_ceil(TAB) * TAB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_multiples_of_eight() {
        let mut table = Table::new();
        table.row(["ID", "PLATFORMS"]);
        table.row(["0123456789abcdef", "linux/amd64"]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID\t\t\tPLATFORMS\n0123456789abcdef\tlinux/amd64\n");
    }

    #[test]
    fn a_row_without_the_column_parts_it() {
        let mut table = Table::new();
        table.row(["a", "b"]);
        table.row([""]);
        table.row(["a long first cell", "b"]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\tb\n\na long first cell\tb\n");
    }
}
