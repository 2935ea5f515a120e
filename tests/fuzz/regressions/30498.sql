-- found: Owner exit Some(3) differs: - Type: FK CONSTRAINT ALTER TABLE ADD CONSTRAINT FOREIGN
-- found: - -- Name: p23‮	 'fk64'; Type: FK CONSTRAINT; Schema: s1
-- found: ALTER TABLE s1."p23‮	"
-- found:     ADD CONSTRAINT "'fk64'" FOREIGN KEY ("fk63/../x*?") REFERENCES s1."p23‮	"("k24,(a
-- found: b)") ON UPDATE SET NULL ON DELETE CASCADE;
-- found: --- stderr
-- found: 2026-11-26T12:08:23.663196Z  WARN not restored: fk constraint s1.p23\u{202e}   'fk64': query would be affected by row-level security policy for table "p23\u{202e}  " [42501]
-- found: 2026-11-26T12:08:23.798978Z  WARN not restored: ownership by postgres: role fz_login cannot act as it; these belong to fz_login now: schema s1, table s1.p23\u{202e}  , table public.pp26
-- way: owner jobs=2 compression=zstd:1 sealed=false volumes=false changes=false draw=362628
CREATE SCHEMA "s1"
;-- next
CREATE TABLE "s1"."p23‮	" ("k24,(a
b)" integer, PRIMARY KEY ("k24,(a
b)")) PARTITION BY RANGE ("k24,(a
b)")
;-- next
CREATE TABLE public."pp26" PARTITION OF "s1"."p23‮	" FOR VALUES FROM (10) TO (30)
;-- next
ALTER TABLE "s1"."p23‮	" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY
;-- next
ALTER TABLE "s1"."p23‮	" ADD COLUMN "fk63/../x*?" integer
;-- next
ALTER TABLE "s1"."p23‮	" ADD CONSTRAINT "'fk64'" FOREIGN KEY ("fk63/../x*?") REFERENCES "s1"."p23‮	" ("k24,(a
b)") ON DELETE CASCADE ON UPDATE SET NULL
