// lib/pq: database/sql's first driver; text, unnamed and named statements, COPY by prepared statement.
// See tests/drivers/README.md.
package main

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

var ctx = context.Background()

func ok(step string) { fmt.Println("ok", step) }

func check(err error) {
	if err != nil {
		log.Panicf("%v (%#v)", err, err)
	}
}

func is(got, wanted interface{}) {
	if !reflect.DeepEqual(got, wanted) {
		log.Panicf("%#v, not %#v", got, wanted)
	}
}

// Exactly this SQLSTATE comes.
func fails(err error, code string) {
	var told *pq.Error
	if !errors.As(err, &told) || string(told.Code) != code {
		log.Panicf("%v, not %s", err, code)
	}
}

// The library reads PGOPTIONS itself.
func address(mode string, more ...string) string {
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=postgres connect_timeout=20 sslmode=%s sslrootcert=%s %s",
		os.Getenv("PGHOST_"), os.Getenv("PGPORT_"), os.Getenv("PGUSER_"), os.Getenv("PGPASSWORD_"), mode, os.Getenv("ROOT_CERT"), strings.Join(more, " "))
}

func open(mode string, more ...string) *sql.DB {
	db, err := sql.Open("postgres", address(mode, more...))
	check(err)
	db.SetMaxOpenConns(4)
	return db
}

type asker interface {
	QueryRowContext(context.Context, string, ...interface{}) *sql.Row
}

func text(db asker, query string, values ...interface{}) (got string) {
	check(db.QueryRowContext(ctx, query, values...).Scan(&got))
	return
}

func row(i int) string { return fmt.Sprintf("row %d ü \\ \" ' %d", i, i*7919%1000) }

func checksum(count int) string {
	sum := md5.New()
	for i := 0; i < count; i++ {
		fmt.Fprintf(sum, "%d:%s\n", i, row(i))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// The same sum, made by the server over (id, v).
func serverChecksum(table string) string {
	return `select md5(coalesce(string_agg(id || ':' || v || E'\n', '' order by id), '')) from ` + table
}

func waysIn() {
	for _, mode := range []string{"require", "verify-full"} {
		db := open(mode)
		is(text(db, "select 40 + 2"), "42")
		check(db.Close())
		ok(mode)
	}
	db := open("verify-full", "binary_parameters=yes")
	is(text(db, "select $1::text || $2::text", "ü", []byte("x")), "üx")
	check(db.Close())
	ok("binary-parameters")
	if err := open("disable").Ping(); err == nil || !regexp.MustCompile(`(?i)tls|ssl|encrypt`).MatchString(err.Error()) {
		log.Panicf("plain text: %v", err)
	}
	ok("plain-refused")
}

func types(db *sql.DB) {
	moment := time.Date(2024, 2, 29, 12, 0, 0, 1000, time.UTC)
	var (
		large   int64
		real    float64
		words   string
		raw     []byte
		flag    bool
		nothing sql.NullString
		numbers []int64
		texts   []string
		when    time.Time
		price   string
	)
	check(db.QueryRow(`select $1::int8, $2::float8, $3::text, $4::bytea, $5::bool, $6::text, $7::int4[], $8::text[], $9::timestamptz, $10::numeric`,
		int64(1)<<62, 1.5, `naïve € 🐘 \ ' "`, []byte{0, 255, 10}, true, nil, pq.Array([]int64{1, 2, 3}), pq.Array([]string{"a", "b,}", `ü"`}), moment, "1234567890.000001",
	).Scan(&large, &real, &words, &raw, &flag, &nothing, pq.Array(&numbers), pq.Array(&texts), &when, &price))
	is(large, int64(1)<<62)
	is(real, 1.5)
	is(words, `naïve € 🐘 \ ' "`)
	is(raw, []byte{0, 255, 10})
	is(flag, true)
	is(nothing.Valid, false)
	is(numbers, []int64{1, 2, 3})
	is(texts, []string{"a", "b,}", `ü"`})
	is(when.Equal(moment), true)
	is(price, "1234567890.000001")
	ok("types")
}

func prepared(db *sql.DB) {
	doubled, err := db.Prepare("select ($1::int * 2)::int")
	check(err)
	var wait sync.WaitGroup
	// On every connection of the pool it is prepared anew, under the same kind of name.
	for worker := 0; worker < 4; worker++ {
		wait.Add(1)
		go func(worker int) {
			defer wait.Done()
			for i := 0; i < 100; i++ {
				var got int
				check(doubled.QueryRow(worker*1000 + i).Scan(&got))
				is(got, 2*(worker*1000+i))
			}
		}(worker)
	}
	wait.Wait()
	check(doubled.Close())
	ok("prepared")
}

func transaction(db *sql.DB) {
	_, err := db.Exec("create table libpq_t (id int primary key, v text); insert into libpq_t values (1, 'kept')")
	check(err)
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	check(err)
	is(text(tx, "show transaction_isolation"), "serializable")
	_, err = tx.Exec("insert into libpq_t values (2, 'lost')")
	check(err)
	_, err = tx.Exec("savepoint s")
	check(err)
	_, err = tx.Exec("insert into libpq_t values (2, 'twice')")
	fails(err, "23505")
	_, err = tx.Exec("select 1")
	fails(err, "25P02")
	_, err = tx.Exec("rollback to savepoint s")
	check(err)
	is(text(tx, "select count(*) from libpq_t"), "2")
	is(text(db, "select count(*) from libpq_t"), "1")
	check(tx.Rollback())
	is(text(db, "select string_agg(v, ',') from libpq_t"), "kept")
	readOnly, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	check(err)
	_, err = readOnly.Exec("insert into libpq_t values (3, 'x')")
	fails(err, "25006")
	check(readOnly.Rollback())
	ok("transaction")
}

func hasErrors(db *sql.DB) {
	for statement, code := range map[string]string{
		"select * from nowhere": "42P01", "insert into libpq_t values (1, 'x')": "23505", "select 1/0": "22012", "selekt": "42601",
	} {
		_, err := db.Exec(statement)
		fails(err, code)
		is(text(db, "select 'on'"), "on")
	}
	_, err := db.Exec("select $1::int", "x")
	fails(err, "22P02")
	ok("errors")
}

func cancel(db *sql.DB) {
	c, err := db.Conn(ctx)
	check(err)
	soon, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	_, err = c.ExecContext(soon, "select pg_sleep(60)")
	fails(err, "57014")
	check(c.Close())
	is(text(db, "select '5'"), "5")
	// Also inside a transaction, which is then rolled back.
	soon, stop = context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	tx, err := db.BeginTx(soon, nil)
	check(err)
	if _, err = tx.ExecContext(soon, "insert into libpq_t select 100, pg_sleep(60)::text"); err == nil {
		log.Panic("not cancelled")
	}
	tx.Rollback()
	is(text(db, "select count(*) from libpq_t"), "1")
	ok("cancel")
}

func copies(db *sql.DB) {
	const count = 100000
	_, err := db.Exec("create table libpq_copy (id int, v text)")
	check(err)
	tx, err := db.Begin()
	check(err)
	rows, err := tx.Prepare(pq.CopyIn("libpq_copy", "id", "v"))
	check(err)
	for i := 0; i < count; i++ {
		_, err = rows.Exec(i, row(i))
		check(err)
	}
	_, err = rows.Exec()
	check(err)
	check(rows.Close())
	check(tx.Commit())
	is(text(db, serverChecksum("libpq_copy")), checksum(count))
	// A row of the wrong type: told at the end, and nothing is kept.
	tx, err = db.Begin()
	check(err)
	rows, err = tx.Prepare(pq.CopyIn("libpq_copy", "id", "v"))
	check(err)
	_, err = rows.Exec("not a number", "x")
	if err == nil {
		_, err = rows.Exec()
	}
	fails(err, "22P02")
	check(tx.Rollback())
	is(text(db, "select count(*) from libpq_copy"), fmt.Sprint(count))
	ok("copy")
}

func bigValue(db *sql.DB) {
	big := strings.Repeat("0123456789abcdef", 4<<20)
	var sum, back string
	check(db.QueryRow("select encode(sha256(v::bytea), 'hex'), v from (select $1::text) x(v)", big).Scan(&sum, &back))
	wanted := sha256.Sum256([]byte(big))
	is(sum, hex.EncodeToString(wanted[:]))
	is(back == big, true)
	ok("big-value")
}

func notify(db *sql.DB) {
	listener := pq.NewListener(address("verify-full"), 10*time.Millisecond, time.Second, func(_ pq.ListenerEventType, err error) {})
	check(listener.Listen("libpq_c"))
	hear := func(wanted string) {
		select {
		case got := <-listener.Notify:
			// nil says that it has connected anew.
			if got == nil {
				log.Panicf("connected anew, not %s", wanted)
			}
			is(got.Channel+" "+got.Extra, wanted)
		case <-time.After(20 * time.Second):
			log.Panicf("%s did not come", wanted)
		}
	}
	for i := 0; i < 20; i++ {
		_, err := db.Exec("select pg_notify('libpq_c', $1)", fmt.Sprint("hello ", i))
		check(err)
	}
	for i := 0; i < 20; i++ {
		hear(fmt.Sprint("libpq_c hello ", i))
	}
	check(listener.Ping())
	check(listener.Close())
	ok("notify")
}

func reconnect(db *sql.DB) {
	tx, err := db.Begin()
	check(err)
	_, err = tx.Exec("set local role none")
	check(err)
	_, err = tx.Exec("select pg_terminate_backend(pg_backend_pid())")
	// What the library makes of every FATAL error.
	is(errors.Is(err, driver.ErrBadConn), true)
	tx.Rollback()
	for i := 0; i < 20; i++ {
		is(text(db, "select count(*) from libpq_t"), "1")
	}
	ok("reconnect")
}

func main() {
	waysIn()
	db := open("verify-full")
	for _, part := range []func(*sql.DB){types, prepared, transaction, hasErrors, cancel, copies, bigValue, notify, reconnect} {
		part(db)
	}
	fails(open("verify-full", "password=wrong").Ping(), "28P01")
	ok("wrong-password")
	_, err := db.Exec("drop table libpq_copy, libpq_t")
	check(err)
	check(db.Close())
	fmt.Println("all lib/pq")
}
