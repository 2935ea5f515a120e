//! Signatures: who signs the next run, whose signatures count, and whether the latest run is signed.

use crate::doctor::findings::Report;
use crate::format::layout;
use crate::runs::find;
use crate::seal::sign::{SigningKey, Trust, signer};
use crate::store::Store;

const AREA: &str = "store";

/// Checks signatures. No signature is no error: that is for a person to decide, who has to know it.
pub(crate) async fn examine(store: &Store, key: Option<&SigningKey>, trust: &Trust, report: &mut Report) {
    let trusted = trust.numbers();
    match key {
        None => report.ok(
            AREA,
            "signing",
            "the next run is not signed (--sign-key): who can write to the store can make up a run; see `pgstow manual trust`",
        ),
        Some(key) if !trust.is_empty() && !trusted.contains(&key.number()) => report.warn(
            AREA,
            "signing",
            format!("the next run is signed by key {}, which --trust does not name", key.number()),
            [format!("add its public key to --trust: {}", key.public())],
        ),
        Some(key) => {
            let text = format!("the next run is signed by key {}; --trust {} asks for it", key.number(), key.public());
            report.ok(AREA, "signing", text);
        }
    }
    // A store without a latest run, or a key that may not look, has nothing to say here.
    let Ok(found) = find::run(store, "latest").await else { return };
    let name = layout::in_run(&found.name, layout::SIGNATURE);
    let Ok(signature) = store.get(&name).await else {
        return report.ok(AREA, "signature", "not known: this key may not read the signature of the latest run");
    };
    let by = signature.as_deref().and_then(signer);
    match trust.check(&found.name, &found.bytes, signature.as_deref()) {
        Err(error) => report.warn(AREA, "signature", error.message(), error.hints().iter().cloned()),
        Ok(Some(by)) => report.ok(AREA, "signature", format!("the latest run is signed by key {by}, which is trusted")),
        Ok(None) => match by {
            Some(by) => report.ok(
                AREA,
                "signature",
                format!("the latest run says it is signed by key {by}; without --trust nobody checks that"),
            ),
            None => report.ok(AREA, "signature", "the latest run is not signed"),
        },
    }
}
