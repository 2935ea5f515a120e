//! What a receipt of `verify` or `drill` says, in a few words and as the cell of a table.

use serde::{Deserialize, Serialize};

use crate::report::html::{self, text};
use crate::runs::receipts::Receipt;

/// A receipt in a few words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    /// When, RFC 3339 in UTC.
    at: String,
    /// True when no damage and no difference was found.
    pub(crate) ok: bool,
    /// The part that it speaks for, where that is not everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    extent: Option<String>,
}

impl From<&Receipt> for Check {
    fn from(receipt: &Receipt) -> Self {
        Self { at: receipt.at.clone(), ok: receipt.ok, extent: receipt.extent() }
    }
}

/// The cell about the last look at a run.
pub(crate) fn cell(check: Option<&Check>) -> String {
    match check {
        None => "<td class=\"soft\">no</td>".to_owned(),
        Some(check) if check.ok => {
            let extent = check.extent.as_ref().map(|extent| format!(" ({})", text(extent))).unwrap_or_default();
            format!("<td>{}{extent}</td>", html::aged(&check.at))
        }
        Some(check) => format!("<td><span class=\"badge bad\">differs</span> {}</td>", html::aged(&check.at)),
    }
}
