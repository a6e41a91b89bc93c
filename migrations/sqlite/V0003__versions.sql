-- Why a version was made, and which document an entry was read from: a document that is read again
-- archives what it no longer holds.
ALTER TABLE entry_versions ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE entries ADD COLUMN document TEXT;
CREATE INDEX entries_by_document ON entries (document) WHERE document IS NOT NULL;
