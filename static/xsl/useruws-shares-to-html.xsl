<?xml version="1.0" encoding="UTF-8"?>
<!-- With whom a job is shared as a page, at {base}/{service}/async/{id}/shares; there a link is told, once. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:s="urn:uwsd:shares"
    exclude-result-prefixes="s">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/s:shares">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat('Who else may look at job ', @job)"/>
      <xsl:with-param name="root" select="'../../../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../../async">Jobs</a></li>
        <li><a href="../{@job}"><xsl:value-of select="concat('Job ', @job)"/></a></li>
        <li><span aria-current="page">Sharing</span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="concat('Who else may look at job ', @job)"/></h1>
        <xsl:for-each select="s:link">
          <section id="link" aria-label="The new link">
            <p>Whoever has this link may look at the job. It is shown here only, and only now:</p>
            <p class="text"><a href="{.}"><xsl:value-of select="."/></a></p>
          </section>
        </xsl:for-each>
        <xsl:choose>
          <xsl:when test="s:share">
            <div class="scroll" role="region" aria-label="Table of shares" tabindex="0">
              <table>
                <thead><tr><th scope="col">With</th><th scope="col">Until</th><th scope="col">End</th></tr></thead>
                <tbody><xsl:apply-templates select="s:share"/></tbody>
              </table>
            </div>
          </xsl:when>
          <xsl:otherwise><p>Nobody.</p></xsl:otherwise>
        </xsl:choose>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="s:share">
    <tr>
      <th scope="row">
        <xsl:choose>
          <xsl:when test="@with = 'LINK'"><xsl:value-of select="concat('Whoever has the link ', @id)"/></xsl:when>
          <xsl:otherwise><xsl:value-of select="@with"/></xsl:otherwise>
        </xsl:choose>
      </th>
      <td>
        <xsl:choose>
          <xsl:when test="@expires"><xsl:call-template name="time"><xsl:with-param name="of" select="@expires"/></xsl:call-template></xsl:when>
          <xsl:otherwise>you end it</xsl:otherwise>
        </xsl:choose>
      </td>
      <td>
        <form method="post" action="../{../@job}/shares/{@id}"><button name="ACTION" value="DELETE">End it</button></form>
      </td>
    </tr>
  </xsl:template>

</xsl:stylesheet>
