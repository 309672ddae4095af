export default function Page() {
  return <p>a guarded page</p>;
}
